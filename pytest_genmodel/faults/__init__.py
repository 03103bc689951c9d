"""Real-world breakages, injected on purpose into a throw-away copy, to show that the gate catches them."""
