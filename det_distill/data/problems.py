"""What can be wrong with a dataset on disk, collected in one pass and told in one message.

A *left-out* problem has a documented consequence (a box is dropped, clipped, ...) and is logged as one
warning.  A *fatal* problem would make training wrong or crash a worker later: it raises `DatasetError`.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

LEFT_OUT = {
    "degenerate box": "the box is left out",
    "box outside the image": "the box is left out",
    "box partly outside the image": "the box is clipped to the image",
    "box that is not four finite numbers": "the box is left out",
    "image size differs": "the size in the image file is used",
    "image listed twice": "it is used once",
    "annotation file outside the split not readable": "classes named only there are not found",
    "image without annotation": "a background image; detectron2 trains on it only with "
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS False",
    "category ids not 1 to N": "they become 0 to N-1 in the order of the ids, as detectron2 does",
    "annotation of an image that is not listed": "the annotation is left out",
    "class without image": "the class keeps its number",
    "folder of no class": "CLASSES does not list it; its images are left out",
}
"""Kind of problem -> what the loader does about it."""

FATAL = {
    "folder missing": "check the path; a relative one is looked up in the working directory, then in "
    "$DETECTRON2_DATASETS (default: datasets)",
    "split not found": "name one of the files in ImageSets/Main without its .txt",
    "split not readable": "it must be a text file in UTF-8",
    "empty split": "the file must list image names without suffix, one a line",
    "annotation file missing": "every listed image needs Annotations/<name>.xml; an image without objects "
    "gets a file without <object>. Image names in the split have no suffix",
    "annotation file not readable": "repair the file or take it out of the split",
    "unknown class": "add it to CLASSES, or leave CLASSES empty to use every class that is found",
    "image missing": "add the file or take the image out of the list",
    "image not readable": "replace the file or take it out of the list",
    "image rotated by its EXIF tag": "detectron2 turns it, the boxes were drawn on the unturned one: save "
    "the image without the tag",
    "no annotation at all": "not one usable box was found",
    "json file not readable": "it must be a COCO instances file: an object with images, annotations and "
    "categories",
    "broken json entry": "repair the entry",
    "id used twice": "ids of images and of annotations must be unique",
    "data file missing": "a relative ROOT is looked up in the working directory, then in $DETECTRON2_DATASETS "
    "(default: datasets); nothing is downloaded",
    "data file damaged": "get it again, and unpack it again",
    "data file of another set": "sets whose files have the same names need each a folder of its own",
    "no class folder": "it must hold one folder of images per class, named as the class",
    "class folder missing": "make it, or take the class out of CLASSES",
    "no image at all": "put the images of each class into its folder: .jpg, .png, .bmp, .tif or .webp",
}
"""Kind of problem -> what the user can do about it."""

SHOWN = 10


class DatasetError(ValueError):
    """A dataset that cannot be trained on or evaluated; the message lists the files and what to do."""


@dataclass(frozen=True)
class DatasetProblem:
    """One finding: its kind (a key of `LEFT_OUT` or `FATAL`), the file it is in, and details."""

    kind: str
    file: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file} ({self.detail})" if self.detail else self.file


class DatasetReport:
    """The problems found while one dataset was read.

    Args:
        dataset: what the message calls the dataset, for example "datasets/BCCD (split train)".

    Attributes:
        advice: what the error says last, where there is more to say than the remark of each kind; "": nothing.
    """

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.problems: list[DatasetProblem] = []
        self.advice = ""

    def add(self, kind: str, file: object, detail: str = "") -> None:
        """Note one problem.

        Args:
            kind: a key of `LEFT_OUT` or `FATAL`.
            file: the file (or folder) it is in.
            detail: which object, which value.

        Raises:
            KeyError: the kind is in neither table.
        """
        if kind not in LEFT_OUT and kind not in FATAL:
            raise KeyError(f"'{kind}' is not a kind of dataset problem.")
        self.problems.append(DatasetProblem(kind, str(file), detail))

    def of(self, *kinds: str) -> list[DatasetProblem]:
        """The problems of the given kinds, in the order in which they were found."""
        return [problem for problem in self.problems if problem.kind in kinds]

    def settle(self, logger: logging.Logger) -> None:
        """Log what was left out as one warning, then raise if anything is fatal.

        Raises:
            DatasetError: there is at least one fatal problem; lists the first files of each kind.
        """
        if fatal := list(self._lines(FATAL)):
            advice = [f"  {self.advice}"] if self.advice else []
            raise DatasetError("\n".join([f"{self.dataset} cannot be used:", *fatal, *advice]))
        if left_out := list(self._lines(LEFT_OUT)):
            logger.warning("\n".join([f"{self.dataset} has problems; training goes on:", *left_out]))

    def _lines(self, table: dict[str, str]) -> Iterator[str]:
        for kind, remark in table.items():
            if found := self.of(kind):
                yield f"  {kind}: {len(found)} ({remark})"
                yield from (f"    {problem}" for problem in found[:SHOWN])
                if len(found) > SHOWN:
                    yield f"    ... and {len(found) - SHOWN} more"
