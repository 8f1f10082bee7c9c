# SPDX-License-Identifier: BSD-3-Clause
"""Is this host ready? What was found, with a code that leads to the docs, and what to do."""
