"""`python docs/images/overview.py`: the picture of the README. Lines are predictions, dots certified solutions."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import neural_hamilton as nh

POTENTIALS = {
    "harmonic": "8*(q-0.5)**2",
    "double well": "625/8*(q-0.2)**2*(q-0.8)**2",
    "Morse": "5.23606797749979*(1-exp(-1.4436354751788103*(q-1/3)))**2",
}


def main() -> None:
    model = nh.load("orbitnet")
    sensors, times = np.linspace(0, 1, 100), np.linspace(0, 2, 200)
    figure, (potential, phase, position) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name, expression in POTENTIALS.items():
        orbit = model(expression, q0=0, p0=0, times=times)
        exact = nh.solve(expression, q0=0, p0=0, times=times[::8])
        values = eval(expression, {"q": sensors, "exp": np.exp})
        (line,) = potential.plot(sensors, values, ".", markersize=3, label=name)
        phase.plot(orbit.q, orbit.p, color=line.get_color())
        phase.plot(exact.q, exact.p, "o", markersize=4, color=line.get_color())
        position.plot(orbit.times, orbit.q, color=line.get_color())
        position.plot(exact.times, exact.q, "o", markersize=4, color=line.get_color())
    potential.set(xlabel="q", ylabel="V", title="given: V at 100 sensors", ylim=(-0.1, 2.6))
    potential.legend(loc="upper center", ncols=3, fontsize="small", frameon=False, handletextpad=0.1, columnspacing=1.0)
    phase.set(xlabel="q", ylabel="p", title="predicted: the trajectory")
    position.set(xlabel="t", ylabel="q", title="lines: prediction, dots: certified solution")
    for axes in (potential, phase, position):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
