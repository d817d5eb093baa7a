"""The report: one HTML page that says what a run did, and one that shows a partition before training."""

from fedsim.report.labels import label_distribution_svg
from fedsim.report.page import write_partition_page, write_report

__all__ = ["label_distribution_svg", "write_partition_page", "write_report"]
