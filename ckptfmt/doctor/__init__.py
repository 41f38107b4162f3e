"""``ckptfmt doctor``: why it does not work on this machine, or would not on another.

One small function for each check, in a file for each subject; all they read of a machine goes
through :class:`ckptfmt.doctor.system.System`, so that a tree of files can stand for one. Nothing is
changed and nothing is sent anywhere.
"""
