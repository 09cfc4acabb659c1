"""The environment that a scheduler gives to each of two processes, and a free port."""

import socket


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def slurm(index: int, port: str) -> dict[str, str]:
    """What SLURM tells process `index` of two; the port is else taken from the job's number."""
    job = {"SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    place = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
    return {**job, **place, "JAX_COORDINATOR_PORT": port}


def open_mpi(index: int, port: str) -> dict[str, str]:
    ranks = {"OMPI_COMM_WORLD_RANK": str(index), "OMPI_COMM_WORLD_LOCAL_RANK": str(index)}
    size = {"OMPI_COMM_WORLD_SIZE": "2", "JAX_COORDINATOR_PORT": port}
    return {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911", **size, **ranks}
