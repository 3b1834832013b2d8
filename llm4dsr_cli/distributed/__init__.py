"""Distributed: the same cleaning on several processes or machines, by Ray Data; the only place that imports ray."""
