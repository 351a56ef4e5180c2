"""Every patch of a library, through one registry that refuses a changed library."""
