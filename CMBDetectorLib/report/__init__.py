"""The result of one run as files for readers, spreadsheets and 3D Slicer. Reads `CMBDetectorLib.result.Result` only.

========================  ==============================================================
`write.write_result`      the whole folder, written beside its place and moved into it
`write.check_folder`      whether a result could be written there, before the long search
`table.COLUMNS`           the columns of ``candidates.csv``, each defined once
`summary.summary_lines`   counts, pattern and caveats as plain text
`overview.write_overview`  one picture of every candidate in three planes
========================  ==============================================================
"""

from CMBDetectorLib.report.summary import summary_lines
from CMBDetectorLib.report.table import COLUMNS, format_table
from CMBDetectorLib.report.write import check_folder, write_result

__all__ = ["COLUMNS", "check_folder", "format_table", "summary_lines", "write_result"]
