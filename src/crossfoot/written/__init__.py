"""What people wrote, with file:line:column for every value."""
