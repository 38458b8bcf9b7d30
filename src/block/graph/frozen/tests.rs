//! Who is refused while links are frozen, and that all is as before afterwards.
#![forbid(unsafe_code)]

use super::*;
use crate::block::test_file::TestFile;
use crate::object::options::parse_dotted;

fn open(text: &str) -> Arc<Node> {
    Node::open_blockdev(parse_dotted("driver", text).unwrap()).unwrap()
}

fn access(needs: Permissions) -> Access {
    Access {
        needs: needs.and(Permissions::CONSISTENT_READ),
        shares: Permissions::ALL.without(Permissions::WRITE),
    }
}

#[test]
fn a_loose_link_lets_its_job_write_and_nobody_else() {
    let file = TestFile::new(b"", 1 << 20);
    let path = file.path();
    let below = open(&format!(
        "raw,node-name=frozen-below,file.driver=file,file.filename={path}"
    ));
    let above = open("blkdebug,node-name=frozen-above,image=frozen-below");
    let reader = above.attach(Parent::new("device", "disk0"), access(Permissions::NONE));
    let reader = reader.unwrap();
    let write = |name: &str| below.attach(Parent::new("device", name), access(Permissions::WRITE));
    assert!(write("disk1").is_err());

    let link = [(Arc::clone(&above), Arc::clone(&below))];
    let mut links = FrozenLinks::freeze(&link, true).unwrap();
    let again = FrozenLinks::freeze(&link, false).unwrap_err();
    assert_eq!(
        again.to_string(),
        "Cannot change 'image' link from 'frozen-above' to 'frozen-below'"
    );
    let job = Parent::new("job", "commit");
    links
        .attach(&below, job, access(Permissions::WRITE))
        .unwrap();
    assert!(links.edge_to(&below).is_some() && links.edge_to(&above).is_none());
    assert!(write("disk1").is_err());

    drop(links);
    // The job's edge is gone, and the reader keeps writers away again.
    assert_eq!(below.parents().len(), 1);
    assert!(write("disk1").is_err());
    drop(FrozenLinks::freeze(&link, false).unwrap());
    drop(reader);
    drop(write("disk1").unwrap());
    drop((link, above, below));
    for name in ["frozen-above", "frozen-below"] {
        Node::remove(name).unwrap();
    }
}
