"""Queries and gallery from a config's two folders to the numbers of the evaluator."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import inference_on_dataset

from det_distill.engine import Trainer, load_config
from det_distill.evaluation.retrieval import retrieval
from tests.tiny import build, classifier_cfg, write_image_folder


@pytest.fixture
def catalogs(monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


def learner_cfg(folder, **entry):
    """A metric learner that is tested on one set of images."""
    cfg = classifier_cfg()
    cfg.MODEL.META_ARCHITECTURE = cfg.DISTILL.STUDENT_ARCHITECTURE = "MetricLearner"
    for loss in ("LARGE_MARGIN", "VERIFICATION"):
        cfg.MODEL.METRIC_LEARNING[f"{loss}_WEIGHT"] = 0.0
    cfg.DATASETS.IMAGES.things = CfgNode(entry)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("things",)
    cfg.OUTPUT_DIR = str(folder / "out")
    (folder / "learner.yaml").write_text(cfg.dump())
    return load_config(str(folder / "learner.yaml"))


class Brightness(torch.nn.Module):
    """A model whose embedding of an image is its mean colour."""

    def forward(self, batch):
        return [{"embedding": x["image"].float().mean((1, 2))} for x in batch]


def measured(cfg, model):
    loader = Trainer.build_test_loader(cfg, "things")
    return inference_on_dataset(model.eval(), loader, Trainer.build_evaluator(cfg, "things"))["retrieval"]


def test_queries_search_the_gallery_only(tmp_path, catalogs):
    gallery = write_image_folder(tmp_path / "gallery", count=5)
    queries = write_image_folder(tmp_path / "queries", count=3)
    for folder in (gallery / "disc", queries / "square"):  # so that the colours tell the wrong class
        folder.rename(folder.with_name("spare"))
    (gallery / "square").rename(gallery / "disc")
    (gallery / "spare").rename(gallery / "square")
    (queries / "spare").rename(queries / "ring")  # an identity that the gallery lacks
    cfg = learner_cfg(tmp_path, ROOT=str(gallery), QUERIES=str(queries))
    table = measured(cfg, Brightness())
    # each of three red discs finds five red "squares" first, then its five blue "discs"; rings find nothing
    assert table["queries"] == 3 and table["R1"] == table["R5"] == 0 and table["R10"] == 100
    expected = sum(n / (5 + n) for n in range(1, 6)) / 5
    assert table["mAP"] == pytest.approx(100 * expected)


def test_without_queries_every_image_searches_all_others(tmp_path, catalogs):
    cfg = learner_cfg(tmp_path, ROOT=str(write_image_folder(tmp_path / "shapes", count=3)))
    table = measured(cfg, Brightness())
    assert table["queries"] == 6 and table["R1"] == table["mAP"] == 100


def test_the_numbers_of_a_metric_learner_are_those_of_its_embeddings(tmp_path, catalogs):
    folders = {key: str(write_image_folder(tmp_path / key, count=4)) for key in ("ROOT", "QUERIES")}
    cfg = learner_cfg(tmp_path, **folders)
    model, samples = build(cfg).eval(), []
    for batch in Trainer.build_test_loader(cfg, "things"):
        samples += batch
    assert [x["role"] for x in samples] == ["gallery"] * 8 + ["query"] * 8
    embeddings = torch.stack([row["embedding"] for row in model(samples)]).detach()
    labels = torch.tensor([x["label"] for x in samples])
    found = retrieval(embeddings[8:], labels[8:], embeddings[:8], labels[:8])
    table = measured(cfg, model)
    assert table["queries"] == 8
    assert table["mAP"] == pytest.approx(100 * found.mean_average_precision())
