"""Every reader of the project."""

from tests.fuzz.data_readers import DATA_READERS
from tests.fuzz.model_readers import MODEL_READERS

READERS = (*DATA_READERS, *MODEL_READERS)
