"""Simulated SWI and phase of a head with known microbleeds: anatomy, veins, lesions, field, acquisition, case.

Physics after docs/simulation.md: susceptibility gives the field, the field gives the phase, and blooming and
dephasing emerge from averaging a finer complex signal over the voxel. Runs on any torch device, in float32.
"""
