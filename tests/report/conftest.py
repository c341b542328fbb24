from report_work import workspace  # noqa: F401
