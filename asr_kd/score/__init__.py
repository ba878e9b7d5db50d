"""Words against a reference: error rates, their uncertainty, comparisons, and the reports of recipes."""
