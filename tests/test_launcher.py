"""Which process this is, and where the ranks meet, as every launcher tells it."""

import itertools

import pytest

from mgm_dali.errors import UserError
from mgm_dali.launcher import first_host, local_rank, rank_and_world_size, set_rendezvous


def variables(text):
    """`A=1 B=2` as a dictionary."""
    return dict(entry.split("=", 1) for entry in text.split())


TORCHRUN = variables(
    "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=node2 MASTER_PORT=29400"
)
DEEPSPEED = variables(
    "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_SIZE=4 MASTER_ADDR=10.0.0.2 MASTER_PORT=29500"
)
PODS = variables("RANK=5 WORLD_SIZE=8 MASTER_ADDR=pod-0 MASTER_PORT=23456")
ALLOCATION = variables(
    "SLURM_JOB_ID=4211 SLURM_JOB_NODELIST=node[07-08] SLURM_NNODES=2 SLURM_NTASKS=8 "
    "SLURM_TASKS_PER_NODE=4(x2)"
)
BATCH_SCRIPT = ALLOCATION | variables("SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0")
SRUN = ALLOCATION | variables(
    "SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NODEID=1 SLURM_STEP_ID=2 SLURM_STEP_NUM_TASKS=8 "
    "SLURM_STEP_TASKS_PER_NODE=4(x2) SLURM_STEP_NODELIST=node[07-08]"
)
FIRST_TASK = SRUN | BATCH_SCRIPT
MPIRUN = variables(
    "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 "
    "OMPI_COMM_WORLD_LOCAL_SIZE=4"
)
MPIRUN_ALONE = {name: "0" if "RANK" in name else "1" for name in MPIRUN}
# On the second node its daemon is the one task of a step that leaves out the first.
MPIRUN_UNDER_SRUN = SRUN | MPIRUN | variables("SLURM_STEP_NODELIST=node08 SLURM_STEP_NUM_TASKS=1")
SRUN_PORT = str(20000 + (16 * 4211 + 2) % 10000)

PLACES = {
    # what is set: (rank, ranks, rank on this machine, ranks there, where they meet, the port)
    "torchrun": (TORCHRUN, ("5", "8", "1", "4", "node2", "29400")),
    "torchrun under srun": (SRUN | TORCHRUN, ("5", "8", "1", "4", "node2", "29400")),
    "torchrun with one rank": (
        TORCHRUN | variables("RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 LOCAL_WORLD_SIZE=1"),
        ("0", "1", "0", "1", "node2", "29400"),
    ),
    "deepspeed": (DEEPSPEED, ("5", "8", "1", "4", "10.0.0.2", "29500")),
    "deepspeed in a batch script": (
        BATCH_SCRIPT | DEEPSPEED,
        ("5", "8", "1", "4", "10.0.0.2", "29500"),
    ),
    "pods, one rank each": (PODS, ("5", "8", "0", None, "pod-0", "23456")),
    "srun": (SRUN, ("5", "8", "1", "4", "node07", SRUN_PORT)),
    "srun with a master of the user's": (
        SRUN | variables("MASTER_ADDR=ib-node07 MASTER_PORT=5000 WORLD_SIZE=8"),
        ("5", "8", "1", "4", "ib-node07", "5000"),
    ),
    "srun on other nodes than the first": (
        SRUN | variables("SLURM_STEP_NODELIST=node08,login SLURM_STEP_TASKS_PER_NODE=3,5"),
        ("5", "8", "1", "5", "node08", SRUN_PORT),
    ),
    "srun with a GPU for each task alone": (
        SRUN | variables("CUDA_VISIBLE_DEVICES=0"),
        ("5", "8", "0", "4", "node07", SRUN_PORT),
    ),
    "srun with all GPUs for each task": (
        SRUN | variables("CUDA_VISIBLE_DEVICES=0,1,2,3"),
        ("5", "8", "1", "4", "node07", SRUN_PORT),
    ),
    "srun that does not count": (
        {name: SRUN[name] for name in SRUN if name != "SLURM_STEP_TASKS_PER_NODE"},
        ("5", "8", "1", None, "node07", SRUN_PORT),
    ),
    "mpirun on one machine": (
        MPIRUN | variables("OMPI_COMM_WORLD_LOCAL_SIZE=8"),
        ("5", "8", "1", "8", "127.0.0.1", "29500"),
    ),
    "mpirun -x MASTER_ADDR=node1": (
        MPIRUN | variables("MASTER_ADDR=node1"),
        ("5", "8", "1", "4", "node1", "29500"),
    ),
    "mpirun in an allocation": (MPIRUN_UNDER_SRUN, ("5", "8", "1", "4", "node07", "29500")),
}

ALONE = {
    "no launcher": {},
    "a batch script": BATCH_SCRIPT,
    "salloc's shell": ALLOCATION,
    "salloc's shell on a node": FIRST_TASK | variables("SLURM_STEP_ID=4294967290"),
    "one task of srun": FIRST_TASK | variables("SLURM_STEP_NUM_TASKS=1"),
    "one rank of mpirun": MPIRUN_ALONE,
    "one of many by will": SRUN | variables("RANK=0 WORLD_SIZE=1"),
    "a master for others": variables("MASTER_ADDR=node9 MASTER_PORT=1 WORLD_SIZE=1"),
    "empty variables": variables("RANK= WORLD_SIZE= MASTER_ADDR= MASTER_PORT="),
}

IMPOSSIBLE = {
    # what is set, and the variable that the message begins with
    "no number of ranks": ({"RANK": "0"}, "WORLD_SIZE"),
    "an empty number of ranks": ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE"),
    "no number": ({**TORCHRUN, "RANK": "first"}, "RANK"),
    "a negative rank": ({**TORCHRUN, "RANK": "-1"}, "RANK"),
    "a fraction": ({**TORCHRUN, "WORLD_SIZE": "8.0"}, "WORLD_SIZE"),
    "digits of other scripts": ({**TORCHRUN, "RANK": "\N{ARABIC-INDIC DIGIT FIVE}"}, "RANK"),
    "a million digits": ({**TORCHRUN, "RANK": "9" * 10**6}, "RANK"),
    "a line break": ({**TORCHRUN, "RANK": "5\n"}, "RANK"),
    "a rank too many": ({**TORCHRUN, "RANK": "8"}, "RANK"),
    "a world of none": ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "0"}, "RANK"),
    "no local number": ({**TORCHRUN, "LOCAL_RANK": "gpu1"}, "LOCAL_RANK"),
    "nowhere to meet": ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
    "no port": ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node1"}, "MASTER_PORT"),
    "a port that is none": ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT"),
    "a port too high": ({**TORCHRUN, "MASTER_PORT": "65536"}, "MASTER_PORT"),
    "port zero": ({**TORCHRUN, "MASTER_PORT": "0"}, "MASTER_PORT"),
    "srun without a rank": (
        {name: SRUN[name] for name in SRUN if name != "SLURM_PROCID"},
        "SLURM_PROCID",
    ),
    "srun without a job": (
        {name: SRUN[name] for name in SRUN if name != "SLURM_JOB_ID"},
        "SLURM_JOB_ID",
    ),
    "srun without nodes": (
        {name: SRUN[name] for name in SRUN if name != "SLURM_STEP_NODELIST"},
        "MASTER_ADDR",
    ),
    "nodes that are none": ({**SRUN, "SLURM_STEP_NODELIST": "node[01-"}, "SLURM_STEP_NODELIST"),
    "another size than srun's": ({**SRUN, "WORLD_SIZE": "16"}, "WORLD_SIZE"),
    "a size and nobody's rank": ({"WORLD_SIZE": "8"}, "WORLD_SIZE"),
    "mpirun without a size": ({"OMPI_COMM_WORLD_RANK": "1"}, "OMPI_COMM_WORLD_SIZE"),
    "mpirun on machines unknown": (MPIRUN, "MASTER_ADDR"),
}
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def joined(environ):
    """What PyTorch and DeepSpeed would find."""
    environ = dict(environ)
    set_rendezvous(environ)
    return environ


@pytest.mark.parametrize("given, expected", PLACES.values(), ids=PLACES)
def test_every_launcher_is_understood(given, expected):
    rank, size, place, *_ = map(int, expected[:3])
    assert rank_and_world_size(given) == (rank, size)
    assert local_rank(given) == place
    found = joined(given)
    assert tuple(found.get(name) for name in NAMES) == expected


@pytest.mark.parametrize("given", ALONE.values(), ids=ALONE)
def test_one_process_waits_for_nobody(given):
    assert rank_and_world_size(given) == (0, 1)
    found = joined(given)
    assert [found[name] for name in NAMES[:3]] == ["0", "1", "0"]
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert 1024 <= int(found["MASTER_PORT"]) <= 65535


@pytest.mark.parametrize("given, variable", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_is_refused_by_the_name_of_the_variable(given, variable):
    with pytest.raises(UserError, match=rf"\A{variable}: ") as refused:
        joined(given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("given", [case[0] for case in PLACES.values()] + list(ALONE.values()))
def test_asking_twice_changes_nothing(given):
    once = joined(given)
    assert joined(once) == once


def test_all_tasks_of_a_step_meet_at_the_same_place_and_no_two_are_the_same():
    world = [
        joined({**SRUN, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 4)})
        for rank in range(8)
    ]
    assert len({(found["MASTER_ADDR"], found["MASTER_PORT"]) for found in world}) == 1
    assert sorted(int(found["RANK"]) for found in world) == list(range(8))


def test_steps_and_jobs_that_may_share_a_machine_have_their_own_ports():
    ports = [
        joined({**SRUN, "SLURM_JOB_ID": str(4211 + job), "SLURM_STEP_ID": str(step)})["MASTER_PORT"]
        for job, step in itertools.product(range(600), range(16))
    ]
    assert len(set(ports)) == len(ports)
    assert all(20000 <= int(port) < 30000 for port in ports)


@pytest.mark.parametrize(
    "nodelist, first",
    {
        "node1": "node1",
        "node1,node2": "node1",
        "node[01-04,07],gpu-a3": "node01",
        "node[4,1-3]": "node4",
        "gpu-a3,node[01-04]": "gpu-a3",
        "node[007-012]": "node007",
        "rack[0-1]-node[10-19]": "rack0-node10",
        "n[3-9]-ib.cluster.example": "n3-ib.cluster.example",
        "10.0.0.7,10.0.0.8": "10.0.0.7",
    }.items(),
)
def test_the_first_machine_of_a_list(nodelist, first):
    assert first_host(nodelist) == first


@pytest.mark.parametrize(
    "nodelist",
    [
        "",
        ",node1",
        "node[",
        "node[]",
        "node[-4]",
        "node[a-c]",
        "node]1[",
        "node[1]]",
        "a b",
        "[" * 999,
    ],
)
def test_a_list_that_is_none_is_refused(nodelist):
    with pytest.raises(ValueError, match="no list of machines"):
        first_host(nodelist)
