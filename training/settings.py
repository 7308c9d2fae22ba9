from training.fit import Settings
from training.model import MERGES
