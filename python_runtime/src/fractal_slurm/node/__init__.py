# SPDX-License-Identifier: BSD-3-Clause
"""What runs inside a job, on its nodes: the standard library alone, and nothing from outside this folder."""
