//! Dominant-resource fairness over roles and frameworks, as a function of a problem and the previous solution.
