"""What the trainer asks at start: are the datasets there, and do they fit the model?"""

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from voc_texts import voc_object, voc_xml

from det_distill.data import DatasetError, check_datasets, register_voc


def config(train, test=()):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), tuple(test)
    return cfg


@pytest.fixture
def pets(voc_root):
    root = voc_root({"a": voc_xml(voc_object("cat", 5, 6, 20, 25), voc_object("dog", 5, 6, 20, 25))})
    register_voc("pets_train", root, "train")
    return root


def test_datasets_that_fit_pass(pets):
    check_datasets(config(["pets_train"], ["pets_train"]), 2)


def test_an_unknown_name_lists_the_nearest(pets):
    with pytest.raises(DatasetError, match=r"'pet_train' is not registered\. Nearest names: pets_train"):
        check_datasets(config(["pet_train"]), 2)


def test_another_class_count_tells_which_key_to_set_and_to_what(pets):
    with pytest.raises(DatasetError, match=r"2 classes \(cat, dog\).*Set MODEL\.ROI_HEADS\.NUM_CLASSES to 2"):
        check_datasets(config(["pets_train"]), 80)
    with pytest.raises(DatasetError, match=r"Set MODEL\.RETINANET\.NUM_CLASSES to 2"):
        check_datasets(config(["pets_train"]), 80, classes_key="MODEL.RETINANET.NUM_CLASSES")


def test_the_same_classes_in_another_order_are_an_error(pets):
    register_voc("pets_test", pets, "train", classes=("dog", "cat"))
    with pytest.raises(DatasetError, match=r"(?s)same classes.*\(cat, dog\).*\(dog, cat\)"):
        check_datasets(config(["pets_train"], ["pets_test"]), 2)


@pytest.mark.parametrize("name", ["voc_2007_trainval", "coco_2017_val"])
def test_a_built_in_dataset_without_files_says_where_they_belong(name):
    with pytest.raises(DatasetError, match=rf"(?s)'{name}' cannot be read.*DETECTRON2_DATASETS"):
        check_datasets(config([name]), 20)


def test_a_dataset_of_other_code_needs_its_images(tmp_path):
    record = {
        "file_name": str(tmp_path / "gone.jpg"),
        "image_id": 0,
        "height": 3,
        "width": 4,
        "annotations": [],
    }
    DatasetCatalog.register("theirs", lambda: [record])
    MetadataCatalog.get("theirs").thing_classes = ["cat"]
    with pytest.raises(DatasetError, match=r"lists 1 image files that do not exist: .*gone\.jpg"):
        check_datasets(config(["theirs"]), 1)


def test_an_empty_dataset_of_other_code_is_an_error():
    DatasetCatalog.register("theirs", list)
    with pytest.raises(DatasetError, match="'theirs' has no images"):
        check_datasets(config(["theirs"]), 1)


def test_a_dataset_of_other_code_may_have_pixels_and_needs_labels_of_its_classes():
    records = [{"image_id": i, "label": i, "pixels": np.zeros((2, 2), np.uint8)} for i in range(3)]
    DatasetCatalog.register("theirs", lambda: records)
    MetadataCatalog.get("theirs").thing_classes = ["cat", "dog"]
    with pytest.raises(
        DatasetError, match="2 classes, but 1 images have a label that is not 0 to 1: 2 of 2, for"
    ):
        check_datasets(config(["theirs"]), 2)
    records.pop()
    check_datasets(config(["theirs"]), 2)


def test_a_broken_dataset_is_an_error_before_training(pets):
    (pets / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(DatasetError, match="image missing: 1"):
        check_datasets(config(["pets_train"]), 2)
