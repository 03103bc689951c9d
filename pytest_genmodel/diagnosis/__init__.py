"""What findings are made of: rules, causes, and one observed fault as data."""
