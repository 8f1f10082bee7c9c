# SPDX-License-Identifier: BSD-3-Clause
"""The code that runs inside a job, on its nodes. It uses only the standard library and the modules of this folder."""
