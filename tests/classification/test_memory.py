"""Images in memory: those of workers, resumed exactly, shared among processes; and tests of them."""

from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from det_distill.classification.data import build_test_loader, build_train_loader
from det_distill.classification.memory import MemoryLoader
from det_distill.classification.mixed_loader import MixedLoader
from det_distill.data.loader import ResumableLoader
from det_distill.engine import Trainer, load_config
from tests.tiny import classifier_cfg, write_image_folder

NAMES = ("files", "arrays", "gray")


@pytest.fixture(scope="module", autouse=True)
def sets(tmp_path_factory):
    """Twelve images of 8 x 8 as files, the same as arrays, and gray ones as arrays."""
    root = write_image_folder(tmp_path_factory.mktemp("memory"), count=6)
    files = sorted(root.glob("*/*.png"))
    pixels = [np.asarray(Image.open(file)) for file in files]
    common = [{"image_id": str(i), "label": i // 6} for i in range(12)]
    contents = {
        "files": [{**c, "file_name": str(f)} for c, f in zip(common, files, strict=True)],
        "arrays": [{**c, "pixels": p} for c, p in zip(common, pixels, strict=True)],
        "gray": [{**c, "pixels": p[..., 0].copy()} for c, p in zip(common, pixels, strict=True)],
    }
    for name, dicts in contents.items():
        DatasetCatalog.register(name, lambda dicts=dicts: [dict(d) for d in dicts])
        MetadataCatalog.get(name).thing_classes = ["disc", "square"]
    yield contents
    for name in contents:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def config(*options, name="files"):
    cfg = classifier_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.INPUT.CLASSIFICATION.LOADER = "memory"
    keys = [f"INPUT.CLASSIFICATION.{key}" if key.split(".")[0] in KEYS else key for key in options[::2]]
    cfg.merge_from_list([x for pair in zip(keys, options[1::2], strict=True) for x in pair])
    return cfg


KEYS = classifier_cfg().INPUT.CLASSIFICATION.keys()


def train(cfg, *, seed=3, start=0):
    loader = build_train_loader(cfg, lambda: seed)
    loader.start = start
    return loader


def first(loader, count=5):
    return list(islice(loader, count))


def equal(found, expected):
    return len(found) == len(expected) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) if k == "image" else a[k] == b[k] for k in a)
        for x, y in zip(found, expected, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_unaugmented_batches_are_those_of_workers(name, image_format):
    options = ["CROP", 0, "FLIP", False, "INPUT.FORMAT", image_format]
    if image_format == "L":
        options += ["MODEL.PIXEL_MEAN", [120.0], "MODEL.PIXEL_STD", [60.0]]
    memory, workers = config(*options, name=name), config(*options, "LOADER", "workers", name=name)
    found = first(train(memory))
    assert equal(found, first(train(workers)))
    assert found[0][0]["image"].shape == (1 if image_format == "L" else 3, 8, 8)
    assert found[0][0]["image"].dtype == torch.uint8 and "pixels" not in found[0][0]


AUGMENTED = [
    ["PAD", 2],
    ["AUGMENTATION", "resized_crop", "ERASE", 0.5],
    ["PAD", 2, "MIXUP", 0.5, "CUTMIX", 0.5],
]


@pytest.mark.parametrize("start", [0, 1, 4])
@pytest.mark.parametrize("options", AUGMENTED[:2])
def test_a_stream_that_starts_later_goes_on_as_the_one_from_the_beginning(options, start):
    cfg = config(*options)
    assert equal(first(train(cfg, start=start)), first(train(cfg), start + 5)[start:])


def test_another_seed_and_another_batch_draw_anew():
    cfg = config("DATALOADER.SAMPLER_TRAIN", "IdentitySampler")
    cfg.DATALOADER.IDENTITY_SAMPLER.PER_IDENTITY = 2
    assert not equal(first(train(cfg)), first(train(cfg, seed=4)))
    cfg = config("SOLVER.IMS_PER_BATCH", 12)
    one, two = ({x["image_id"]: x["image"] for x in batch} for batch in first(train(cfg), 2))
    assert one.keys() == two.keys() and not all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("options", AUGMENTED[:2])
def test_two_processes_see_together_what_one_would(monkeypatch, options):
    cfg = config(*options)
    alone = first(train(cfg))
    for rank in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
            patch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
            assert equal(first(train(cfg)), [batch[rank::2] for batch in alone])


def test_the_stream_is_that_of_the_loader_with_workers():
    loaders = train(config()), train(config("LOADER", "workers"))
    assert [type(loader) for loader in loaders] == [MemoryLoader, ResumableLoader]
    assert first(loaders[0].batches()) == first(loaders[1].batches())


@pytest.mark.parametrize("where", ["memory", "workers"])
def test_batches_are_mixed_alike_from_any_start_and_differently_on_each_process(monkeypatch, where):
    cfg = config(*AUGMENTED[2], "LOADER", where)
    straight, later = first(train(cfg), 5), train(cfg, start=2)
    assert isinstance(later, MixedLoader) and later.start == 2
    for expected, found in zip(straight[2:], first(later, 3), strict=True):
        for a, b in zip(expected, found, strict=True):
            assert torch.equal(a["image"], b["image"]) and torch.equal(a["target"], b["target"])
            assert a["target"].shape == (2,) and a["target"].sum() == pytest.approx(1)
    seeds = []
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        plain = train(config("LOADER", where))
        seeds += [first(MixedLoader(plain, lambda batch, seed: seed, lambda: 3), 3)]
    assert len({*seeds[0], *seeds[1]}) == 6


def test_a_run_with_mixed_images_in_memory_is_resumed_exactly(tmp_path, sets):
    cfg = config(*AUGMENTED[2])
    cfg.DATASETS.TEST = ()
    (tmp_path / "run.yaml").write_text(cfg.dump())

    def run(name, resume=False):
        options = ["OUTPUT_DIR", str(tmp_path / name), "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)"]
        torch.manual_seed(123 if resume else 7)
        trainer = Trainer(load_config(str(tmp_path / "run.yaml"), options))
        trainer.resume_or_load(resume)
        trainer.train()
        return torch.load(tmp_path / name / "model_final.pth")["model"]

    straight = run("straight")
    (tmp_path / "resumed").mkdir()
    (tmp_path / "straight" / "model_0000001.pth").rename(tmp_path / "resumed" / "model_0000001.pth")
    resumed = run("resumed", resume=True)
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("resize", "crop"), [(0, 5), (6, 0), (0, 0)])
def test_a_test_in_memory_sees_what_one_with_workers_does(name, resize, crop):
    options = ["RESIZE", resize, "CROP", crop]
    memory = build_test_loader(config(*options, name=name), name)
    workers = build_test_loader(config(*options, "LOADER", "workers", name=name), name)
    assert len(memory) == 3
    assert equal([[x for b in memory for x in b]], [[x for b in workers for x in b]])


def test_a_test_set_is_decoded_once_and_again_for_another_setting(monkeypatch):
    read = []
    mapper = "det_distill.classification.mapper.ClassificationMapper.__call__"
    original = build_test_loader.__globals__["ClassificationMapper"].__call__
    monkeypatch.setattr(mapper, lambda self, record: read.append(record) or original(self, record))
    cfg = config("INPUT.FORMAT", "BGR")
    for expected in (13, 13):  # the first one tells the size
        assert len([x for b in build_test_loader(cfg, "files") for x in b]) == 12 and len(read) == expected
    build_test_loader(config("RESIZE", 9, "INPUT.FORMAT", "BGR"), "files")
    assert len(read) == 26


def test_each_process_keeps_its_own_share_of_a_test_set(monkeypatch):
    seen = []
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        seen += [[x["image_id"] for b in build_test_loader(config(), "files") for x in b]]
    assert seen == [[str(i) for i in range(6)], [str(i) for i in range(6, 12)]]


def test_a_test_set_that_lies_decoded_is_not_loaded_again(sets):
    loaded = []
    DatasetCatalog.register("counted", lambda: loaded.append(1) or [dict(d) for d in sets["arrays"]])
    try:
        for _ in range(3):
            assert len([x for b in build_test_loader(config(name="counted"), "counted") for x in b]) == 12
    finally:
        DatasetCatalog.remove("counted")
    assert loaded == [1]


@pytest.mark.parametrize("crop", [0, 5])
@pytest.mark.parametrize("where", ["memory", "workers"])
def test_a_process_for_which_a_test_set_has_no_image_sees_none(monkeypatch, sets, where, crop):
    DatasetCatalog.register("one_image", lambda: [dict(sets["arrays"][0])])
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    cfg, seen = config("LOADER", where, "CROP", crop, name="one_image"), []
    try:
        for rank in range(2):
            monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
            seen.append([x["image_id"] for b in build_test_loader(cfg, "one_image") for x in b])
    finally:
        DatasetCatalog.remove("one_image")
    assert seen == [["0"], []]


def test_threads_read_what_one_reads_in_the_same_order():
    assert equal(first(train(config("DATALOADER.NUM_WORKERS", 3))), first(train(config())))


def test_an_image_of_another_size_is_named(sets):
    odd = {**sets["arrays"][0], "pixels": np.zeros((8, 9, 3), np.uint8), "image_id": "the odd one"}
    DatasetCatalog.register("uneven", lambda: [*sets["arrays"], odd])
    try:
        message = "the odd one has 3 x 8 x 9 where 0 has 3 x 8 x 8: set LOADER to 'workers'"
        with pytest.raises(ValueError, match=message):
            train(config(name="uneven"))
        with pytest.raises(ValueError, match=message):
            build_test_loader(config(name="uneven"), "uneven")
    finally:
        DatasetCatalog.remove("uneven")


def test_a_set_that_does_not_fit_is_refused_with_its_size(monkeypatch):
    monkeypatch.setattr("det_distill.classification.memory._free_bytes", lambda device: 2000)
    message = "12 images of 3 x 8 x 8 need 2.3 kB, but cpu has 2.0 kB free: set LOADER to 'workers'"
    with pytest.raises(ValueError, match=message):
        train(config())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["COLOR_JITTER", 0.4], "COLOR_JITTER 0.4 is done image by image: set .*LOADER to 'workers'"),
        (["RAND_AUGMENT.OPERATIONS", 2], "RAND_AUGMENT.OPERATIONS 2 is done"),
        (["LOADER", "disc"], "LOADER 'disc': choose 'workers' or 'memory'"),
        (["CROP", 20], "8 x 8 pixels.: .* 10 x 10 pixels with RESIZE 0 and PAD 1 where .*CROP is 20: set"),
        (["PAD", 8, "PAD_MODE", "reflect"], "too few to mirror 8 of them"),
        (["ERASE", 2.0], "ERASE is 2.0"),
        (["SOLVER.IMS_PER_BATCH", 1, "MIXUP", 0.2], "at least two images"),
    ],
)
def test_what_cannot_be_done_is_told_when_the_loader_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        train(config(*options))


def test_a_crop_larger_than_the_images_of_a_test_is_an_error():
    with pytest.raises(ValueError, match="8 x 8 pixels where they are to be cropped to 20 x 20"):
        build_test_loader(config("CROP", 20), "files")


def test_training_sets_are_joined_and_must_have_the_same_classes():
    cfg = config("SOLVER.IMS_PER_BATCH", 24)
    cfg.DATASETS.TRAIN = ("files", "gray")
    (batch,) = first(train(cfg), 1)
    assert sorted(x["image_id"] for x in batch) == sorted(2 * [str(i) for i in range(12)])
    DatasetCatalog.register("others", lambda: [{"label": 0, "pixels": np.zeros((8, 8), np.uint8)}])
    MetadataCatalog.get("others").thing_classes = ["cat", "dog"]
    cfg.DATASETS.TRAIN = ("files", "others")
    try:
        with pytest.raises(ValueError, match="different metadata 'thing_classes'"):
            train(cfg)
    finally:
        DatasetCatalog.remove("others")
        MetadataCatalog.remove("others")
