"""What people type: commands and a small synchronous API client that starts fast."""
