"""What the larger examples share: runs that go on where they were, and records."""
