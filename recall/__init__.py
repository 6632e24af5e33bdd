"""What was remembered, shown: recorded while agents act, and looked into afterwards.

Read the files in this order: `sheets` (pictures on the disk), `record` (the format of a recorded episode), `recorder`
(which records an agent while it trains or is evaluated), `panel` (one step as a picture), `plugin` (TensorBoard).
"""
