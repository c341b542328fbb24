"""What every floor stands on: values, errors, files."""
