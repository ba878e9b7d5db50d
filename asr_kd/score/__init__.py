"""Words against a reference: error rates and their uncertainty, comparisons of systems, reports of recipes."""
