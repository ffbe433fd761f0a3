"""Reports: from records to totals per project."""
