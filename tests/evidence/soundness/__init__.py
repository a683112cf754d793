"""What the tests of the certified bounds share: random networks, admissible images, and the ledger of checks."""
