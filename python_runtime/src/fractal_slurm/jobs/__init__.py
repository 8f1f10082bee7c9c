# SPDX-License-Identifier: BSD-3-Clause
"""Which tasks go into which job, and the script of a job."""
