"""Before hours of training: do the teachers of a config load, fit the student, and know more than it does?"""

from .check import check_teachers
from .findings import Finding, summary

__all__ = ["Finding", "check_teachers", "summary"]
