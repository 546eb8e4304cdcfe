"""The result of one run as files for readers, spreadsheets and 3D Slicer, and a reader's review of it.

=========================  ==============================================================
`write.write_result`       the whole folder, written beside its place and moved into it
`write.check_folder`       whether a result could be written there, before the long search
`table.COLUMNS`            the columns of ``candidates.csv``, each defined once
`summary.summary_lines`    counts, pattern and caveats as plain text
`overview.write_overview`  one picture of every candidate in three planes
`record.read_record`       what a run said, back from its ``candidates.json``
`review_table`             a review as a table, and back
`review_summary`           a review in plain words
`review_record`            a review as the text that a scene keeps, and back
=========================  ==============================================================
"""

from CMBDetectorLib.report.summary import summary_lines
from CMBDetectorLib.report.table import COLUMNS, format_table
from CMBDetectorLib.report.write import check_folder, write_result

__all__ = ["COLUMNS", "check_folder", "format_table", "summary_lines", "write_result"]
