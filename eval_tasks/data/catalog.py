"""The files that data sets are read from: their names, where they are looked for, where they come from.

Imports neither JAX nor NumPy. The MD5 sums are those that Zalando's page and torchvision's
`datasets/mnist.py` give for the packed files; the SHA-256 of tiny Shakespeare is that of karpathy/char-rnn.
No sum is published for the single files of CIFAR-10 and ImageNet.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileSet:
    """The training files of one data set, before any pooling.

    Args:
      files: their names. A file whose name ends in `.gz` may lie there unpacked, without that ending.
      folders: where they are looked for, relative to the data folder; "" is that folder itself.
      all_needed: or else one or more of them, the first included, will do.
      advice: what the files are and where to get them, in one or two sentences.
      checksums: of the published files, by name: "md5:..." or "sha256:...".
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    all_needed: bool
    advice: str
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)


_IDX_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
_NPZ_FILES = tuple(f"train_data_batch_{number}.npz" for number in range(1, 11))

FILE_SETS: Mapping[str, FileSet] = {
    "cifar10": FileSet(
        files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        folders=("cifar-10-batches-bin", ""),
        all_needed=False,
        advice="Each data_batch file has 30,730,000 bytes. Get "
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, unpack it (folder cifar-10-batches-bin) "
        "and set MULO_DATA_DIR to the folder that holds it.",
    ),
    "mnist": FileSet(
        files=_IDX_FILES,
        folders=("mnist", "MNIST/raw"),
        all_needed=True,
        advice="Get train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz from "
        "https://ossci-datasets.s3.amazonaws.com/mnist/, put them into a folder mnist, packed or unpacked, "
        "and set MULO_DATA_DIR to the folder that holds it.",
        checksums={
            "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        },
    ),
    "fashion-mnist": FileSet(
        files=_IDX_FILES,
        folders=("fashion-mnist", "FashionMNIST/raw"),
        all_needed=True,
        advice="Get train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz from "
        "https://github.com/zalandoresearch/fashion-mnist (folder data/fashion), put them into a folder "
        "fashion-mnist, packed or unpacked, and set MULO_DATA_DIR to the folder that holds it.",
        checksums={
            "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        },
    ),
    "imagenet32": FileSet(
        files=_NPZ_FILES,
        folders=("Imagenet32_train_npz", ""),
        all_needed=False,
        advice="Each train_data_batch file has about 400 MB (128,116 images as uint8 [N, 3072], labels 1 to "
        "1000). Get 'Imagenet32 train (npz format)' from https://image-net.org/download-images (free "
        "account) and set MULO_DATA_DIR to the folder that holds the unpacked files.",
    ),
    "imagenet64": FileSet(
        files=_NPZ_FILES,
        folders=("Imagenet64_train_part1_npz", "Imagenet64_train_part2_npz", "Imagenet64_train_npz"),
        all_needed=False,
        advice="Each train_data_batch file has about 1.6 GB (128,116 images as uint8 [N, 12288], labels 1 to "
        "1000). Get 'Imagenet64 train (npz format)', parts 1 and 2, from "
        "https://image-net.org/download-images (free account), unpack them into the folders "
        "Imagenet64_train_part1_npz and Imagenet64_train_part2_npz, and set MULO_DATA_DIR to the folder that "
        "holds these.",
    ),
    "tinyshakespeare": FileSet(
        files=("tinyshakespeare.txt",),
        folders=("",),
        all_needed=True,
        advice="It has 1,115,394 bytes. Get "
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt, call it "
        "tinyshakespeare.txt and set MULO_DATA_DIR to the folder that holds it.",
        checksums={
            "tinyshakespeare.txt": "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
        },
    ),
}


def text_file(name: str) -> FileSet:
    """The set of one text file of the user's."""
    return FileSet(
        files=(name,),
        folders=("",),
        all_needed=True,
        advice="Set MULO_DATA_DIR to the folder that holds it.",
    )


IMAGE_FORMS: Mapping[str, tuple[tuple[int, int, int], int]] = {
    "cifar10": ((3, 32, 32), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "imagenet32": ((3, 32, 32), 1000),
    "imagenet64": ((3, 64, 64), 1000),
}
"""File set: (C, H, W) of an image in its files, and the number of classes."""
