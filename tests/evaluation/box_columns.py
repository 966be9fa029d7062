"""Short ways to write detections and objects, and random ones."""

import numpy as np

from det_distill.evaluation import Detections, GroundTruth


def objects(*rows: tuple, images: int = 4, size: int = 200) -> GroundTruth:
    """Rows (image, category, (x0, y0, x1, y1)[, {"difficult": 1, "crowd": 1, "area": ...}])."""
    box = np.array([row[2] for row in rows], dtype=float).reshape(-1, 4)
    flags = [row[3] if len(row) > 3 else {} for row in rows]
    sides = box[:, 2:] - box[:, :2]
    area = [flag.get("area", value) for flag, value in zip(flags, sides.prod(axis=1), strict=True)]
    return GroundTruth(
        image=np.array([row[0] for row in rows], dtype=np.int64),
        category=np.array([row[1] for row in rows], dtype=np.int64),
        box=box,
        area=np.array(area, dtype=float),
        crowd=np.array([flag.get("crowd", 0) for flag in flags], dtype=bool),
        difficult=np.array([flag.get("difficult", 0) for flag in flags], dtype=bool),
        sizes=np.full((images, 2), size),
    )


def detections(*rows: tuple) -> Detections:
    """Rows (image, category, score, (x0, y0, x1, y1))."""
    return Detections(
        image=np.array([row[0] for row in rows], dtype=np.int64),
        category=np.array([row[1] for row in rows], dtype=np.int64),
        box=np.array([row[3] for row in rows], dtype=float).reshape(-1, 4),
        score=np.array([row[2] for row in rows], dtype=float),
    )


def random_scene(seed: int, *, images: int = 12, classes: int = 4) -> tuple[Detections, GroundTruth]:
    """Whole-pixel boxes, detections near them, scores of three digits; the last class has no object."""
    generator = np.random.default_rng(seed)
    found, truth = [], []
    for image in range(images):
        for _ in range(generator.integers(0, 7)):
            corner, sides = generator.integers(0, 120, 2), generator.integers(4, 70, 2)
            box, category = np.concatenate([corner, corner + sides]), int(generator.integers(0, classes - 1))
            flags = {"difficult": generator.random() < 0.2, "crowd": generator.random() < 0.1}
            truth.append((image, category, box, flags))
            for _ in range(generator.integers(0, 4)):
                moved = box + generator.integers(-6, 7, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                guess = category if generator.random() < 0.9 else int(generator.integers(0, classes))
                found.append((image, guess, round(generator.random(), 3), moved))
    order = generator.permutation(len(found))
    return detections(*(found[index] for index in order)), objects(*truth, images=images)
