"""The DICE family, model-free baselines on the same conjugates as DAMO: AlgaeDICE, OptiDICE, ODICE (docs/dice.md)."""
