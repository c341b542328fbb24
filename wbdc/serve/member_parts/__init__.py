"""What several kinds of members, and the estimators that fit them, have in common."""
