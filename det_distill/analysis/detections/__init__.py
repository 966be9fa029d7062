"""The report on what detectors find: teacher and students on one data set, as a page for a browser."""

from .measure import Measured, measure
from .page import write_page
from .sources import Found, Source, find_all, parse_sources

__all__ = ["Found", "Measured", "Source", "find_all", "measure", "parse_sources", "write_page"]
