"""How fast, and in how much memory: one module per benchmark, all run by `benchmarks.run`.

A benchmark has ``measure(small, scratch)``, which gives plain JSON data with every raw second in it,
``figures(data)``, the numbers that `benchmarks.speed.reach` has an aim for, and ``table(data)``, its part of
benchmarks/README.md. The last two look at nothing but the data.
"""
