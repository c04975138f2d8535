#!/usr/bin/env python3
"""Writes readings.txt: a day and a bit of made-up readings of eight buoys, the same at every run."""

import pathlib

BUOYS = ["bilbao", "cabo-mayor", "gijon", "estaca", "villano", "silleiro", "getxo", "pasaia"]
LINES = 20_000
SECONDS_PER_LINE = 5


class Lcg:
    """A random number generator that no library version changes."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


def lines():
    random = Lcg(20250301)
    wind = {buoy: 80 for buoy in BUOYS}  # tenths of m/s
    heading = {buoy: 290 for buoy in BUOYS}
    for i in range(LINES):
        seconds = i * SECONDS_PER_LINE
        day, rest = divmod(seconds, 86_400)
        clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
        buoy = BUOYS[random.below(len(BUOYS))]
        wind[buoy] = min(max(wind[buoy] + random.below(21) - 10, 0), 330)
        heading[buoy] = (heading[buoy] + random.below(11) - 5) % 360
        speed = f"{wind[buoy] // 10}.{wind[buoy] % 10}"
        yield f"2025-03-{day + 1:02}T{clock}Z {buoy} {speed} m/s {heading[buoy]}"


pathlib.Path(__file__).with_name("readings.txt").write_text("".join(line + "\n" for line in lines()))
