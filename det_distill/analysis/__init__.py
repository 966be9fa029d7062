"""Looking at what models learned: pictures and reports."""
