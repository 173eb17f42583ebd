"""The last step of a recipe's transforms on images, the same in training and evaluation."""
from libai.config import LazyCall

from projects.MAE.data.transforms import ToArray

# A configuration without the group data has ImageNet's.
MEAN = "${oc.select:data.mean,[0.485,0.456,0.406]}"
STD = "${oc.select:data.std,[0.229,0.224,0.225]}"


def to_array():
    """A call of `ToArray` with data.mean and data.std, the one place where they are set."""
    return LazyCall(ToArray)(mean=MEAN, std=STD)
