"""What was remembered, shown: recorded while agents act, and looked into afterwards.

Read the files in this order: `sheets` (pictures on the disk), `record` (the format of a recorded episode, and how it is
read), `episode_writer` (how it is written), `episodes` (whence a memory is), `recorder` (who records an agent while it
trains; `games`, while it plays), `panel` (one step as a picture), `plugin` (TensorBoard).
"""
