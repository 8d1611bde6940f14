"""Imports the packages before pytest imports their modules one by one, a second time, to run their examples."""

import ikem  # noqa: F401
import ikem_ext  # noqa: F401
