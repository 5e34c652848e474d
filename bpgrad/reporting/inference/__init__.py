"""Statistics over seeds, and the verdicts on claims that rest on them."""
