"""A model: loaded, its vocabulary grown, adapted, saved. Knows nothing of training."""

from crossfoot.models.quantise import import_bitsandbytes

import_bitsandbytes()  # before a module in here imports peft, which does
