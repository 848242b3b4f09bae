"""What the policies and roles in cluster/ grant: one bucket, and machines of its own cluster."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from manifests import CLUSTER, WORKERS, Tree, read
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME

BUCKET = "arn:aws:s3:::REPLACE_BUCKET"


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def beyond_the_bucket(policy: Tree) -> list[str]:
    """What a policy grants beyond named actions on one bucket and its objects."""
    found = []
    for statement in policy["Statement"]:
        if statement.keys() != {"Sid", "Effect", "Action", "Resource"} or statement["Effect"] != "Allow":
            found.append(f"{statement.get('Sid')}: a form that is not understood here")
            continue
        found += [
            action
            for action in as_list(statement["Action"])
            if not re.fullmatch(r"s3:[A-Za-z]+", action) or "Policy" in action or "Acl" in action
        ]
        found += [resource for resource in as_list(statement["Resource"]) if resource not in (BUCKET, f"{BUCKET}/*")]
    return found


def test_the_bucket_policy_grants_named_actions_on_one_bucket():
    policy = json.loads((CLUSTER / "aws_bucket_policy.json").read_text())
    assert beyond_the_bucket(policy) == []
    granted = {action for statement in policy["Statement"] for action in as_list(statement["Action"])}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"} <= granted


@pytest.mark.parametrize(
    ("key", "wide"),
    [
        ("Action", "s3:*"),
        ("Action", ["s3:GetObject", "s3:Put*"]),
        ("Action", "s3:PutBucketPolicy"),
        ("Resource", "*"),
        ("Resource", "arn:aws:s3:::*"),
        ("Resource", [BUCKET, "arn:aws:s3:::another/*"]),
        ("Resource", "arn:aws:s3:::REPLACE_BUCKET*"),
        ("NotAction", "s3:DeleteObject"),
    ],
)
def test_a_wider_bucket_policy_would_be_noticed(key: str, wide: Any):
    policy = json.loads((CLUSTER / "aws_bucket_policy.json").read_text())
    policy["Statement"][1][key] = wide
    assert beyond_the_bucket(policy)


def test_the_head_may_start_and_end_machines_of_its_own_cluster_only():
    config = read("aws.yaml")
    statements = json.loads((CLUSTER / "aws_head_policy.json").read_text())["Statement"]
    for statement in statements:
        actions, resources = as_list(statement["Action"]), as_list(statement["Resource"])
        assert statement["Effect"] == "Allow"
        assert all(re.fullmatch(r"(ec2|iam):[A-Za-z]+", action) for action in actions)
        if any(not action.startswith("ec2:Describe") for action in actions):
            assert all(resource.startswith("arn:aws:") for resource in resources)
        if any(resource.endswith(":instance/*") for resource in resources):
            (condition,) = statement["Condition"]["StringEquals"].items()
            assert condition in {
                (f"aws:RequestTag/{TAG_RAY_CLUSTER_NAME}", config["cluster_name"]),
                (f"aws:ResourceTag/{TAG_RAY_CLUSTER_NAME}", config["cluster_name"]),
                ("ec2:CreateAction", "RunInstances"),
            }
        if "ec2:TerminateInstances" in actions:
            assert f"aws:ResourceTag/{TAG_RAY_CLUSTER_NAME}" in statement["Condition"]["StringEquals"]
    passed = [statement for statement in statements if "iam:PassRole" in as_list(statement["Action"])]
    workers = {config["available_node_types"][name]["node_config"]["IamInstanceProfile"]["Name"] for name in WORKERS}
    assert [statement["Resource"] for statement in passed] == [
        f"arn:aws:iam::REPLACE_ACCOUNT:role/{name}" for name in workers
    ]
    granted = {action for statement in statements for action in as_list(statement["Action"])}
    assert granted == {
        "ec2:DescribeInstances",
        "ec2:RunInstances",
        "ec2:CreateTags",
        "ec2:TerminateInstances",
        "iam:PassRole",
    }


def test_no_machine_gets_the_wide_rights_of_rays_default_role():
    for kind in read("aws.yaml")["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"]["Name"] in {"raysem-head", "raysem-worker"}
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
    for name, kind in read("gcp.yaml")["available_node_types"].items():
        (account,) = kind["node_config"]["serviceAccounts"]
        assert account["email"].split("@")[0] == ("raysem-head" if name == "head" else "raysem-worker")
        if name != "head":
            assert all("cloud-platform" not in scope for scope in account["scopes"])


def test_the_roles_of_google_cloud_name_each_permission():
    bucket = json.loads((CLUSTER / "gcp_bucket_role.json").read_text())["includedPermissions"]
    allowed = r"storage\.(buckets\.get|objects\.(create|delete|get|list)|multipartUploads\.\w+)"
    assert all(re.fullmatch(allowed, permission) for permission in bucket)
    head = json.loads((CLUSTER / "gcp_head_role.json").read_text())["includedPermissions"]
    allowed = r"compute\.(instances|disks|images|subnetworks|zoneOperations)\.[a-zA-Z]+"
    assert all(re.fullmatch(allowed, permission) and "IamPolicy" not in permission for permission in head)
    assert {"compute.instances.create", "compute.instances.delete", "compute.instances.list"} <= set(head)
