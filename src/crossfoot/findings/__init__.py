"""What a user is told: a finding, the page of its code, and how both are shown."""
