"""Motions known in closed form, from any start: q(t), p(t) by elementary, elliptic and beta functions.

Each takes times of any shape, q0 and p0, and returns q and p of that shape; unit mass throughout.
An energy for which the formula does not hold (an escape, a separatrix) is an InputError.
"""

import numpy as np
from scipy.special import betainc, betaincinv, betaln, ellipj, ellipkinc

from ..errors import InputError

Array = np.ndarray
States = tuple[Array, Array]
_SEPARATRIX = 1e-9  # relative distance in energy within which the elliptic functions have no digits left


def harmonic(times: Array, q0: float, p0: float, *, rest: float, frequency: float) -> States:
    """V = frequency^2 (q - rest)^2 / 2."""
    c, s = np.cos(frequency * times), np.sin(frequency * times)
    x0 = q0 - rest
    return rest + x0 * c + p0 / frequency * s, p0 * c - frequency * x0 * s


def morse(times: Array, q0: float, p0: float, *, depth: float, decay: float, rest: float) -> States:
    """V = depth (1 - exp(-decay (q - rest)))^2, bound orbits.

    With e^2 = E / depth < 1 and w = decay sqrt(2 (depth - E)): exp(decay (q - rest)) = (1 - e cos(w t + phase)) / (1 - e^2)
    (Landau & Lifshitz, Mechanics, section 12, problem 2a, by t = integral of dq / p).
    """
    deviation = -np.expm1(-decay * (q0 - rest))
    energy = 0.5 * p0 * p0 + depth * deviation**2
    if energy >= depth * (1.0 - _SEPARATRIX):
        raise InputError(f"orbit has energy {energy:.9g}; the Morse potential binds below {depth:.9g}")
    if energy == 0.0:
        return np.full(times.shape, q0), np.zeros(times.shape)
    e = np.sqrt(energy / depth)
    gap = (depth - energy) / depth  # 1 - e^2
    frequency = decay * np.sqrt(2.0 * (depth - energy))
    growth0 = np.exp(decay * (q0 - rest))
    # e cos = 1 - (1 - e^2) y and 1 - y = -y * deviation, so that nothing cancels near the bottom.
    phase = np.arctan2(p0 * decay * growth0 * gap / frequency, e * e * growth0 - growth0 * deviation)
    angle = frequency * times + phase
    scale = 1.0 - e * np.cos(angle)
    return rest + np.log(scale / gap) / decay, frequency * e * np.sin(angle) / (decay * scale)


def pendulum(times: Array, q0: float, p0: float, *, scale: float, height: float, rest: float) -> States:
    """V = height (1 - cos(scale (q - rest))), swinging.

    sin(scale (q - rest) / 2) = k sn(w t + u0, k^2) with w = scale sqrt(height) and k^2 = E / (2 height).
    """
    half = 0.5 * scale * (q0 - rest)
    m = p0 * p0 / (4.0 * height) + np.sin(half) ** 2
    if m >= 1.0 - _SEPARATRIX:
        raise InputError(f"pendulum has energy {2.0 * height * m:.9g}; the swing is known in closed form below {2.0 * height:.9g}")
    if m == 0.0:
        return np.full(times.shape, q0), np.zeros(times.shape)
    frequency = scale * np.sqrt(height)
    k = np.sqrt(m)
    # sn and cn at the start make a circle of radius 1 by conservation of energy: their angle has all digits.
    start = ellipkinc(np.arctan2(np.sin(half), p0 / (2.0 * np.sqrt(height))), m)
    sn, cn, dn, _ = ellipj(frequency * times + start, m)
    return rest + 2.0 / scale * np.arctan2(k * sn, dn), 2.0 * k * frequency / scale * cn


def double_well(times: Array, q0: float, p0: float, *, stiffness: float, half_gap: float, middle: float) -> States:
    """V = stiffness (x^2 - half_gap^2)^2 with x = q - middle.

    Over the barrier x = a cn(w t + u0, m), w^2 = 4 stiffness root, m = (root + half_gap^2) / (2 root);
    within a well x = +-a dn(w t + u0, m), w^2 = 2 stiffness a^2, m = 2 root / a^2; with root = sqrt(E / stiffness)
    and a^2 = half_gap^2 + root (Duffing's equation).
    """
    x0, square = q0 - middle, half_gap * half_gap
    offset = x0 * x0 - square
    energy = 0.5 * p0 * p0 + stiffness * offset**2
    root = np.sqrt(energy / stiffness)
    if abs(energy - stiffness * square * square) <= _SEPARATRIX * stiffness * square * square:
        raise InputError(f"orbit has energy {energy:.9g}, that of the barrier; its motion is not known in closed form")
    if energy == 0.0:
        return np.full(times.shape, q0), np.zeros(times.shape)
    # (root - offset) (root + offset) = p0^2 / (2 stiffness); the factor without cancellation gives the other.
    kinetic = 0.5 * p0 * p0 / stiffness
    if offset > 0.0:
        outer, inner = kinetic / (root + offset), root + offset  # a^2 - x0^2, and x0^2 less the inner turning point's square
    else:
        outer, inner = root - offset, kinetic / (root - offset)
    a = np.sqrt(square + root)
    if root > square:
        frequency, m = np.sqrt(4.0 * stiffness * root), (root + square) / (2.0 * root)
        start = ellipkinc(np.arctan2(-np.copysign(np.sqrt(outer), p0), x0), m)
        sn, cn, dn, _ = ellipj(frequency * times + start, m)
        return middle + a * cn, -a * frequency * sn * dn
    side = np.copysign(1.0, x0)
    frequency, m = a * np.sqrt(2.0 * stiffness), 2.0 * root / (a * a)
    start = ellipkinc(np.arctan2(-np.copysign(np.sqrt(outer), side * p0), np.sqrt(inner)), m)
    sn, cn, dn, _ = ellipj(frequency * times + start, m)
    return middle + side * a * dn, -side * a * frequency * m * sn * cn


def power_law(times: Array, q0: float, p0: float, *, exponent: float) -> States:
    """V = 2 |2 x|^exponent with x = q - 1/2.

    With y = V / E, t = C B(y; 1 / exponent, 1/2), an incomplete beta function, and C = x_max / (exponent sqrt(2 E)):
    y(t) is its inverse. Next to a turning point 1 - y has its digits from the mirrored function.
    """
    x0 = q0 - 0.5
    potential = 2.0 * abs(2.0 * x0) ** exponent
    energy = 0.5 * p0 * p0 + potential
    if energy == 0.0:
        return np.full(times.shape, q0), np.zeros(times.shape)
    a = 1.0 / exponent
    farthest = 0.5 * (0.5 * energy) ** a
    quarter = farthest / (exponent * np.sqrt(2.0 * energy)) * np.exp(betaln(a, 0.5))
    kinetic_share = 0.5 * p0 * p0 / energy
    share = betainc(a, 0.5, potential / energy) if kinetic_share > 0.5 else 1.0 - betainc(0.5, a, kinetic_share)
    elapsed = quarter * share
    # The phase is the time since the middle was last passed to the right.
    if x0 >= 0.0:
        phase = elapsed if p0 >= 0.0 else 2.0 * quarter - elapsed
    else:
        phase = 4.0 * quarter - elapsed if p0 >= 0.0 else 2.0 * quarter + elapsed
    phase = np.mod(phase + times, 4.0 * quarter)
    half = np.mod(phase, 2.0 * quarter)
    share = np.clip(np.minimum(half, 2.0 * quarter - half) / quarter, 0.0, 1.0)
    x = farthest * betaincinv(a, 0.5, share) ** a
    speed = np.sqrt(2.0 * energy * betaincinv(0.5, a, 1.0 - share))
    rising = (phase < quarter) | (phase >= 3.0 * quarter)
    return 0.5 + np.where(phase < 2.0 * quarter, x, -x), np.where(rising, speed, -speed)
