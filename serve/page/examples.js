/* Potentials in units of your own. Those of a model come with the model. */
export const OWN_EXAMPLES = {
  "HCl molecule": { expression: "D*(1-exp(-a*(q-r)))**2", parameters: "D=4.618, a=1.869, r=1.2746", domain: [0.7, 4], mass: 0.98, q0: 1.5, p0: 0.3 },
  "Lennard-Jones": { expression: "4*eps*((s/q)**12 - (s/q)**6)", parameters: "eps=1, s=1", domain: [0.85, 3], mass: 1, q0: 1.5, p0: 0 },
  "Pendulum": { expression: "g*(1-cos(q))", parameters: "g=9.81", domain: [-3.14, 3.14], mass: 1, q0: 2.4, p0: 0 },
  "Heavy double well": { expression: "(q**2-1)**2", parameters: "", domain: [-1.8, 1.8], mass: 3, q0: -1.5, p0: 0 },
};
