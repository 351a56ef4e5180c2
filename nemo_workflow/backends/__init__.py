"""Every patch of a library, through one registry that refuses a changed library; and what a plan must know of the patches."""

# numbers whose moments gpu/optimizer_update.py has in fp32 at once, or one tensor's where it has more
UPDATE_PIECE = 1 << 26
