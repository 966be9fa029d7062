"""Annotation files in VOC format, as text."""


def voc_object(name: str, *corners: object, difficult: object = 0) -> str:
    """An <object>; the corners are xmin, ymin, xmax, ymax as VOC writes them."""
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def voc_xml(*objects: str, size: tuple[int, int] | None = (40, 30)) -> str:
    """A whole annotation file."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{stated}{''.join(objects)}</annotation>"
