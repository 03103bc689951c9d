"""Real-world breakages, injected on purpose into a throw-away copy, to show that the gate catches them.

A fault is one function in the module of its kind, registered with the rule that must name it (`registry.fault`).
"""
