"""The guest agent: it serves the verbs of exec and files inside a device, over any byte channel.

It needs nothing but a Python 3.9 with a minimal standard library (no json, pty, termios, shutil, ctypes, typing), and
goes into a device as one file, the archive of :func:`anvild.sdk.agent.guest_archive`. There it is alone: its modules
import one another and never what is beside them. ``protocol.py`` describes the wire, and :mod:`.wire` repeats its
constants; a test keeps the two equal.

    agent.pyz port NAME|PATH     a virtio-serial port, by its name or its device path
    agent.pyz connect PATH       a unix socket that it connects to
    agent.pyz listen PATH|FD     a unix socket that it listens on, or an inherited listening one; the newest peer counts
    agent.pyz fd N               an inherited descriptor

One thread, one epoll loop, nothing blocks but disk I/O. :class:`.agent.Agent` is the loop, :class:`.channel.Channel`
the way to the host; every verb in progress is a :class:`.streams.Stream`.
"""
